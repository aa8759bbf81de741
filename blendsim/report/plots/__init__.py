"""Pictures of results; the one package of blendsim that loads matplotlib. Here: its colours."""

INK, QUIET = "#22303c", "#8796a5"
# Apart in grey and for colour-blind readers: decode only, mixed, prefill-heavy.
COLOURS = ("#d55e00", "#009e73", "#0072b2")
