"""`mode: auto`: think only where thinking is measured to pay."""
