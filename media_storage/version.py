"""The one place that states the version: packaging, the command and the logs read it here."""

__version__ = "0.1.0"
