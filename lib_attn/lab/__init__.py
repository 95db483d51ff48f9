"""The stand-alone host: checkpoints, samplers, pictures and measurements without a webui."""
