#pragma once
/* Sections that saving and restoring of a whole VM share. */

#define SECTION_MACHINE "machine" /* config: the JSON of state/config.h */
#define MACHINE_VERSION 1
#define SECTION_FILE    "file" /* one per other file of the snapshot: size, checksum */
#define FILE_VERSION    1
