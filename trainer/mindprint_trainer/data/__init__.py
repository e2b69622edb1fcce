"""From leased samples to packed token rows."""
