"""The differential oracle: whatever is charged, every reader of what went up sees just that.

Bodies, crafted and mutated, go through a real gateway to an upstream that keeps the raw bytes; those are read by
the form and JSON readers that servers are built on, in three languages. Run it by ``python -m tests.differential``.
"""
