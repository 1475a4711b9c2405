"""What only one thread may do at a time."""

from __future__ import annotations

import threading

TRANSFORMERS = threading.Lock()
"""Held wherever transformers is imported or asked to make something: it imports its parts on first use, and two
threads that do so at once meet half-imported modules ("cannot import name")."""
