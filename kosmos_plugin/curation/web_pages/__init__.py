"""Web pages → documents of text and images in reading order (§3.1, §B.1.3).

pages            options and stages of kosmos-prepare pages
sources          WARC files, folders of HTML      ─┐
releases         MMC4, OBELICS                    ─┴→ documents: texts, and images by their addresses
html             HTML → texts and images
rules            what the paper discards
image_index      where the image of an address lies, in WARC files and tars
image_stores     the address of an image → its bytes
"""
