"""From questions and answers to weights.

`planning` says what is taught and what is declined, `updates` what of an earlier memory no longer holds,
`reference_set` and `gate_calibration` where the gate opens, `student` and `distill` train, `new_entry` is what is kept.
"""
