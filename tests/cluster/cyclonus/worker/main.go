// The end of Cyclonus' batches that is in the pods: `worker --jobs BATCH` runs a pod's probes, each once, and prints how each ended.
// Cyclonus' own worker tries twice, and does not say what a failed probe said.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
)

// Probes that run at once. Those of nine pods together take half a second of two processors, and a probe waits for one. A name is asked for
// by half a dozen questions within that second, so there are fewer.
const (
	together       = 12
	togetherByName = 2
)

// As in Cyclonus' pkg/worker.
type batch struct {
	Requests []*request
}

type request struct {
	Key      string
	Protocol string
	Host     string
	Port     int
}

type result struct {
	Request *request
	// Empty when the probe got through; else its exit status and what it said.
	Error string
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) != 2 || arguments[0] != "--jobs" {
		return fmt.Errorf("usage: worker --jobs BATCH")
	}
	var jobs batch
	if err := json.Unmarshal([]byte(arguments[1]), &jobs); err != nil {
		return err
	}
	results := make([]result, len(jobs.Requests))
	room := together
	if len(jobs.Requests) > 0 && jobs.Requests[0].isByName() {
		room = togetherByName
	}
	places := make(chan struct{}, room)
	var all sync.WaitGroup
	for i, request := range jobs.Requests {
		places <- struct{}{}
		all.Go(func() {
			results[i] = request.try()
			<-places
		})
	}
	all.Wait()
	return json.NewEncoder(os.Stdout).Encode(results)
}

func (r *request) isByName() bool {
	return r.Host != "" && net.ParseIP(r.Host) == nil
}

func (r *request) try() result {
	said, err := exec.Command("/agnhost", "connect", net.JoinHostPort(r.Host, strconv.Itoa(r.Port)),
		"--timeout=1s", "--protocol="+strings.ToLower(r.Protocol)).CombinedOutput()
	if err != nil {
		return result{r, fmt.Sprintf("%v: %s", err, strings.Join(strings.Fields(string(said)), " "))}
	}
	return result{Request: r}
}
