"""The structures that kernels take by address. `source/paged_kv.h` and `source/rotary.h` say what the fields are."""

from ctypes import Structure, c_float, c_int64, c_void_p


class PagedKv(Structure):
    """Keys and values of one layer."""

    _fields_ = (
        ("keys", c_void_p),
        ("values", c_void_p),
        ("key_scales", c_void_p),
        ("value_scales", c_void_p),
        ("block_bytes", c_int64),
        ("block_tokens", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
    )


class Projected(Structure):
    """A batch's rows of the fused projection, and what becomes of them before attention."""

    _fields_ = (
        ("qkv", c_void_p),
        ("tokens", c_int64),
        ("heads", c_int64),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("eps", c_float),
        ("cos", c_void_p),
        ("signed_sin", c_void_p),
        ("query_scale", c_void_p),
        ("blocks", c_void_p),
        ("offsets", c_void_p),
    )
