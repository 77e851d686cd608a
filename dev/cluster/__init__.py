"""A Kubernetes cluster for the tests and the demo.

One interface (`interface.Cluster`: create, load, kubeconfig, delete) and three implementations: `kind` where Docker
answers, the `native` single node where it does not, and the `current` kube context for a cluster one already has.
"""
