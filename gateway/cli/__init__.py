"""gatewayctl: the operator's tool. Talks to gateway/runtime/control.py over a UNIX socket and to nothing else."""
