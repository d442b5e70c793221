"""Mailboxes in, versions out."""

from mpips.server.server import Server

__all__ = ["Server"]
