package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/keyutil"
	core "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// issuer names the API server in the tokens it signs.
const issuer = "https://kubernetes.default.svc.cluster.local"

// client speaks to the cluster as its administrator.
func (c Cluster) client() (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// token signs, with the cluster's own key, what the API server would not issue: a token bound to a pod that lasts less than ten minutes,
// or has expired. (The API server takes a token for a minute longer than it says.)
func (c Cluster) token(args []string) error {
	if len(args) != 5 {
		return errors.New("wants NAMESPACE ACCOUNT POD AUDIENCE SECONDS")
	}
	namespace, name, podName, audience := args[0], args[1], args[2], args[3]
	seconds, err := strconv.ParseInt(args[4], 10, 32)
	if err != nil {
		return fmt.Errorf("%q is not a number of seconds", args[4])
	}
	if _, err := c.pid(); err != nil {
		return err
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	ctx := context.Background()
	account, err := client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	pod, err := client.CoreV1().Pods(namespace).Get(ctx, podName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	key, err := keyutil.PrivateKeyFromFile(c.PKI + "/sa.key")
	if err != nil {
		return err
	}
	generator, err := serviceaccount.JWTTokenGenerator(issuer, key)
	if err != nil {
		return err
	}
	public, private, err := serviceaccount.Claims(
		core.ServiceAccount{ObjectMeta: account.ObjectMeta}, &core.Pod{ObjectMeta: pod.ObjectMeta}, nil, nil, seconds, 0, []string{audience})
	if err != nil {
		return err
	}
	if seconds < 0 { // it was issued before it expired
		*public.IssuedAt = *public.Expiry - 600
		*public.NotBefore = *public.IssuedAt
	}
	token, err := generator.GenerateToken(ctx, public, private)
	if err != nil {
		return err
	}
	fmt.Println(token)
	return nil
}
