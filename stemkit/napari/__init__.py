"""Plugin of napari: reads files of microscopes, enhances images and measures columns, which can be corrected by hand.

napari finds it by ``napari.yaml``; nothing here is imported before one of its commands is used.

- ``commands`` are those of the menu, ``reader`` reads files, ``layers`` converts images and tables to layers and back.
"""
