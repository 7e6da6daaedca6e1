"""Uploads and redirects beside other ways to do the same: ``python -m benchmarks``. Linux; see README.md."""
