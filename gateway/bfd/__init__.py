"""Bidirectional Forwarding Detection, and the echo through a tunnel for peers that have none."""
