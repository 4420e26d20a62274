"""Boards, and what runs the TTNN graph on them: uploads, contexts, traces, stages, the cache of converted weights."""
