"""The native single node: a real Kubernetes in namespaces of its own, without Docker.

Everything runs below one process (`supervise`) in its own PID, mount and network namespace, so that ending that one
process takes every pod, mount, interface and iptables chain with it.
"""
