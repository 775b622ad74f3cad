"""Whole files rewritten from an old API to its successor."""
