"""`mindprint eval`: does personalized self-distillation do what it promises, on one's own model and records?

`arms` and `recipes` declare what is compared, `piece` runs them through server and trainer, `outcomes` is the table that
everything else (`metrics`, `stats`, `claims`, `report`) is computed from.
"""
