"""`mindprint eval`: compare ways to answer on later questions of real users, and report the evidence.

`arms` lists what is compared. `shard` runs one group of users on its own server. `results` defines the table of
outcomes, from which `metrics` and `report` compute everything else.
"""
