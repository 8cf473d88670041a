"""A small S3-protocol file server: signatures checked, data on disk, faults on demand."""

from vidgen.simulator.s3.server import Fault, Request, S3Server

__all__ = ["Fault", "Request", "S3Server"]
