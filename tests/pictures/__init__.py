"""Pictures to judge by: builders of small files, the material that packages ship, and Chromium's verdict on both."""
