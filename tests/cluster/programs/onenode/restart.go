package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// holdFile is below the state folder, and holds the time until which the supervisor leaves a program down: a time, so that a program
// comes back even if whoever wrote the file is killed.
func holdFile(name string) string { return "run/" + name + ".hold" }

func held(file string) bool {
	var until time.Time
	text, err := os.ReadFile(file)
	return err == nil && until.UnmarshalText(text) == nil && time.Now().Before(until)
}

// restart kills a program of the node, leaves it down for some seconds, and returns when it runs again (the API server: when it is ready).
func (c Cluster) restart(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return errors.New("wants PROGRAM [SECONDS]")
	}
	name, down := args[0], 0.0
	var err error
	if len(args) == 2 {
		if down, err = strconv.ParseFloat(args[1], 64); err != nil || down < 0 || down > 3600 {
			return fmt.Errorf("%q is not a number of seconds, 0 to 3600", args[1])
		}
	}
	if _, err := c.pid(); err != nil {
		return err
	}
	var names []string
	for _, stage := range c.stages() {
		for _, svc := range stage.services {
			names = append(names, svc.name())
		}
	}
	if !slices.Contains(names, name) {
		return fmt.Errorf("no program %q runs in the node; there are %v", name, names)
	}
	pidFile := c.path("run/" + name + ".pid")
	before, err := os.ReadFile(pidFile)
	if err != nil {
		return err
	}
	began, hold := time.Now(), time.Duration(down*float64(time.Second))
	until, err := began.Add(hold).MarshalText()
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path(holdFile(name)), until, 0o644); err != nil {
		return err
	}
	// KILL, as a TERM to the API server lasts a minute: it lets its watchers finish.
	kill, err := c.enter("sh", "-c", "kill -KILL "+string(before))
	if err != nil {
		return err
	}
	if err := sh(kill[0], kill[1:]...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), hold+time.Minute)
	defer cancel()
	if err := eventually(ctx, name, func() error {
		now, err := os.ReadFile(pidFile)
		if err == nil && slices.Equal(now, before) {
			err = errors.New("does not run again")
		}
		return err
	}); err != nil {
		return err
	}
	if name == "kube-apiserver" {
		if err := eventually(ctx, name, c.apiReady); err != nil {
			return err
		}
	}
	fmt.Printf("%s is back after %.1fs\n", name, time.Since(began).Seconds())
	return nil
}
