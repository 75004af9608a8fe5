"""The HTTP service over the queue of `apps.jobs`: the `/v1/videos` family with a video as its input.

The only package that imports FastAPI, Starlette, uvicorn and python-multipart (the extra `serve`).
"""
