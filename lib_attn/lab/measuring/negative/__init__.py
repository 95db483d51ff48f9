"""What Negative skip, Contrast and Key mix do on the lab's model, and what they cost: one file a measurement.

`cases` says what is compared, `studio` holds the specification of a run with its model and judge; `drawn` draws and
keeps pictures. The list of parts, with their tables, is `lib_attn.lab.reports.negative`.
"""
