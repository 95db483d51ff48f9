"""Tables and pages of documents, made from rows, from result files and from the settings schema.

`tables` for rows, `benchmark` and `negative` for the pages of the benches, `figures` for whatever pages show of result
files, `parameters` for the page of all parameters.
May import: `lib_attn.lab.shared`, `drawing`, `judging` and `measuring`, and of `lib_attn` what those may import.
"""
