"""Builds a Node.js package on a host from source, and puts a copy of it into each service."""
