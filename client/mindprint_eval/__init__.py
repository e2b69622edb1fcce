"""`mindprint eval`: does personalized self-distillation do what it promises, on one's own records?

`arms` declares what is compared, `piece` runs it through server and trainer, `outcomes` is the table that all the rest
(`metrics`, `stats`, `claims`, `report`) is computed from.
"""
