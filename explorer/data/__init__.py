"""Data that people bring, made into evaluation tasks."""
