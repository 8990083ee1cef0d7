// onenode is a one-node Kubernetes cluster in one binary, for tests: see ../../README.md.
package main

import (
	"fmt"
	"os"
)

const usage = `usage: onenode COMMAND
  up PAUSE COREDNS                     bring the cluster up (or find it up), wait until its node and DNS answer
  down                                 end it and remove every trace of it
  image NAME:TAG BINARY [SRC:DST...]   make an image FROM scratch: BINARY as entrypoint, other files or folders copied in
  node [COMMAND...]                    run a command inside the node (its network, mounts and processes), or list its processes
  restart PROGRAM [SECONDS]            kill a program of the node, leave it down so long, return when it is back
  token NAMESPACE ACCOUNT POD AUDIENCE SECONDS
                                       sign a service account's token that expires then; a negative number: has expired
  kubectl, etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy: the programs themselves
environment: ` + stateVar + ` (/tmp/onenode), ` + netVar + ` (10.231), ` + proxyModeVar + ` (iptables)
`

var commands = map[string]func(Cluster, []string) error{
	"up":       Cluster.up,
	"down":     Cluster.down,
	"image":    Cluster.image,
	"node":     Cluster.node,
	"restart":  Cluster.restart,
	"token":    Cluster.token,
	nodeMarker: Cluster.nodeMain,
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(64)
	}
	name := os.Args[1]
	if run, ok := components[name]; ok {
		os.Args = os.Args[1:]
		run()
		return
	}
	run, ok := commands[name]
	if !ok {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(64)
	}
	c, err := newCluster()
	if err == nil {
		err = run(c, os.Args[2:])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "onenode %s: %v\n", name, err)
		os.Exit(1)
	}
}
