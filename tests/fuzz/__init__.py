"""Bytes that nobody thought of: for the readers of bodies, led by what of their code they reach; for the socket."""
