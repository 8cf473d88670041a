"""
Is everything there that vidgen needs, does it let us in, and is it what it should be?

    finding.py      what a check came to: a sentence, and how to mend what is wrong
    checkup.py      all checks, side by side
    servers.py      PostgreSQL, its schema, Redis, its memory, the workers
    bucket.py       every right that a video needs there, by using it
    clocks.py       this machine's clock against those of the servers
    providers.py    keys and models
    secrets.py      what signs, seals and opens

A check is a function that gives one finding, and raises what it cannot reach. Nothing costs money.
"""
