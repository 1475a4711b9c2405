"""Devices, chunks, exact selection and the resident arena."""
