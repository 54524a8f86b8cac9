// Kubernetes' agnhost with the commands that suites of network policy use, and no others: suites start it for each probe, and its hundred
// other packages take ten times as long to start as these.
package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/test/images/agnhost/connect"
	"k8s.io/kubernetes/test/images/agnhost/netexec"
	"k8s.io/kubernetes/test/images/agnhost/pause"
	"k8s.io/kubernetes/test/images/agnhost/porter"
	servehostname "k8s.io/kubernetes/test/images/agnhost/serve-hostname"
)

func main() {
	root := &cobra.Command{Use: "agnhost"}
	root.AddCommand(
		connect.CmdConnect,
		netexec.CmdNetexec,
		pause.CmdPause,
		porter.CmdPorter,
		servehostname.CmdServeHostname,
	)
	os.Exit(cli.Run(root))
}
