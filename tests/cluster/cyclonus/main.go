// Cyclonus with a command that its own leaves out: `batches` runs its cases as `generate` does, its probes by one exec for each pod and
// step instead of one for each probe. Its packages have that; the option of its command line is commented out.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/mattfenwick/cyclonus/pkg/cli"
	"github.com/mattfenwick/cyclonus/pkg/connectivity"
	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	"github.com/mattfenwick/cyclonus/pkg/generator"
	"github.com/mattfenwick/cyclonus/pkg/kube"
	"github.com/mattfenwick/cyclonus/pkg/worker"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
)

func main() {
	root := cli.SetupRootCommand()
	root.AddCommand(batches())
	if root.Execute() != nil {
		os.Exit(1)
	}
}

type options struct {
	protocols   []string
	include     []string
	destination string
	wait        int
}

func batches() *cobra.Command {
	var o options
	command := &cobra.Command{
		Use:   "batches",
		Short: "run generated cases, one exec for each pod and step",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return o.run() },
	}
	flags := command.Flags()
	flags.StringSliceVar(&o.protocols, "server-protocol", []string{"TCP", "UDP"}, "protocols that pods serve")
	flags.StringSliceVar(&o.include, "include", nil, "only cases with one of these tags")
	flags.StringVar(&o.destination, "destination-type", generator.ProbeModePodIP, "what a probe calls")
	flags.IntVar(&o.wait, "perturbation-wait-seconds", 5, "seconds from a change to its judgement")
	return command
}

func (o *options) run() error {
	cli.RunVersionCommand()
	mode, err := generator.ParseProbeMode(o.destination)
	if err != nil {
		return err
	}
	if err := generator.ValidateTags(o.include); err != nil {
		return err
	}
	var protocols []v1.Protocol
	for _, word := range o.protocols {
		protocol, err := kube.ParseProtocol(word)
		if err != nil {
			return err
		}
		protocols = append(protocols, protocol)
	}
	cluster, err := kube.NewKubernetesForContext("")
	if err != nil {
		return err
	}
	// By itself a client makes five requests a second; a case makes thirty before its first change.
	cluster.RestConfig.QPS, cluster.RestConfig.Burst = 500, 500
	if cluster.ClientSet, err = kubernetes.NewForConfig(cluster.RestConfig); err != nil {
		return err
	}
	client := watched{cluster}

	// What `generate` takes when it is not told otherwise.
	namespaces, pods, ports := []string{"x", "y", "z"}, []string{"a", "b", "c"}, []int{80, 81}
	resources, err := probe.NewDefaultResources(client, namespaces, pods, ports, protocols, nil, 60, true, "")
	if err != nil {
		return err
	}
	interpreter := connectivity.NewInterpreter(client, resources, &connectivity.InterpreterConfig{
		ResetClusterBeforeTestCase:       true,
		VerifyClusterStateBeforeTestCase: true,
		PerturbationWaitSeconds:          o.wait,
		BatchJobs:                        true,
	})
	last, err := resources.GetPod("z", "c")
	if err != nil {
		return err
	}
	cases := generator.NewTestCaseGenerator(true, last.IP, namespaces, o.include, nil).GenerateTestCases()
	for i, testCase := range cases {
		fmt.Printf("test #%d: %s\n - tags: %s\n", i+1, testCase.Description, strings.Join(testCase.Tags.Keys(), ", "))
		for _, step := range testCase.Steps {
			step.Probe.Mode = mode
		}
	}
	printer := &connectivity.Printer{}
	for i, testCase := range cases {
		fmt.Printf("starting test case #%d\n", i+1)
		result := interpreter.ExecuteTestCase(testCase)
		if result.Err != nil {
			return result.Err
		}
		printer.PrintTestCaseResult(result)
		fmt.Printf("finished policy #%d\n", i+1)
	}
	printer.PrintSummary()
	return nil
}

// A cluster whose batches leave a line in the log for each probe that called nobody.
type watched struct{ kube.IKubernetes }

func (w watched) ExecuteRemoteCommand(namespace, pod, container string, command []string) (string, string, error, error) {
	var batch worker.Batch
	if err := json.Unmarshal([]byte(command[len(command)-1]), &batch); err != nil {
		return "", "", nil, err
	}
	for _, request := range batch.Requests {
		if request.Host == "" {
			logrus.Debugf("no address in %s", request.Key)
		}
	}
	return w.IKubernetes.ExecuteRemoteCommand(namespace, pod, container, command)
}
