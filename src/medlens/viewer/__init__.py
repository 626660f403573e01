"""The viewer: one screen on a run, in a browser (`medlens view`), in a notebook (`medlens.view`) and in a report (`embed`).

Reads the store alone: neither torch nor transformers.
"""
