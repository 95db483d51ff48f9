"""Random settings for property tests."""

from hypothesis import strategies as st

from lib_attn.settings import GROUPS, Settings

BLOCKS = ["auto", "all", "in", "out6-11", "d0,d1", "all,!mid", "in4,out3-5,m", "!d0"]


def values(param):
    """Valid values of one parameter."""
    if param.kind == "bool":
        return st.booleans()
    if param.kind == "int":
        return st.integers(int(param.low), int(param.high))
    if param.kind == "float":
        return st.floats(param.low, param.high, allow_nan=False)
    if param.kind == "choice":
        return st.sampled_from(param.choices)
    if param.kind == "file":
        return st.sampled_from(["", "a file (2)", "file#0123456789"])
    return st.sampled_from(BLOCKS)


def groups():
    return [st.builds(g, **{p.name: values(p) for p in g.params()}) for g in GROUPS]


def settings():
    """Any valid settings."""
    return st.tuples(*groups()).map(lambda found: Settings(tuple(found)))
