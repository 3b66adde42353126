"""Parameter names of other projects: what they mean in ours."""
