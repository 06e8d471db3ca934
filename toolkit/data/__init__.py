"""Reading, converting, inspecting and drawing face-parsing data."""
