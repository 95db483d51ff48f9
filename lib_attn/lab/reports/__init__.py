"""Tables and pages of documents, made from rows, from result files and from the settings schema.

`tables` for rows, a module for what pages show of each measurement, `figures` for the pages themselves, `parameters`
for the page of all parameters.
May import: `lib_attn.lab.shared`, `drawing`, `judging` and `measuring`, and of `lib_attn` what those may import.
"""
