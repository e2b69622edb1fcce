"""The verdict on a candidate: checks, likelihoods, and the order in which they are made."""
