"""From leased samples to token ids, packed rows and forward passes."""
