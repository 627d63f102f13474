"""PaddleX's own serving beside ours."""
