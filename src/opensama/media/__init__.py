"""Video files in and out (`video_io`), and what is done to frames between (`frames`)."""
