"""Headers that no client sends by itself, for what every HTTP face must bear."""

from __future__ import annotations

from hypothesis import strategies as st

_VALUES = {
    "Host": ("xn--a", "xn--a:80", "[", "[::1", "127.0.0.1:x", "a" * 70, "127.0.0.1", ""),
    "Origin": ("null", "http://xn--a", "https://", "http://127.0.0.1:x", "://", "http://[", "file:///x"),
    "Content-Encoding": ("gzip", "deflate", "br", "zstd", "identity", "x", "gzip, gzip"),
    "Transfer-Encoding": ("chunked", "gzip", "identity", "chunked, chunked", "x"),
    "Expect": ("x", "100-continue", "100-continue, x", ""),
}
_LETTERS = st.characters(min_codepoint=33, max_codepoint=126)


def odd_headers() -> st.SearchStrategy[dict[str, str]]:
    """Return what makes up to three of them, each with a value that means something, or with any."""
    one = st.sampled_from(sorted(_VALUES)).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(_VALUES[name]) | st.text(_LETTERS, max_size=12))
    )
    return st.lists(one, min_size=1, max_size=3).map(dict)
