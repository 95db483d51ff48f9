"""The stand-alone host: checkpoints, samplers, pictures and measurements without a webui.

Rooms, each importing only those before it: `shared` (error, sizes, distances, result files), `drawing` (from a
checkpoint to pictures), `judging` (what a picture shows), `measuring` (rows of figures), `reports` (tables and pages),
`commands` (the command line). `model` holds the embedded model and the judge.
"""
