"""A U-Net's blocks, layers and batch rows, and one file for each kind of call that a technique may change.

`families` knows how a code base builds its U-Nets, `layers` names what it finds, `rows` says which row of the batch is
which image, `flight` what is known while a call is on its way. `batch`, `self_attention`, `cross_attention` and
`blocks` hook the four kinds of call; `neighbours` looks after what other extensions have put there. Knows no host.
"""
