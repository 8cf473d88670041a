"""The page as people see it: headless Chromium on the real server."""
