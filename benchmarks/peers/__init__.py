"""The other sides of comparisons, each in a process of its own."""
