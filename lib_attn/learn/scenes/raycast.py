class RayRenderer:
    pass
