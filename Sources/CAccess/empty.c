// SwiftPM wants a source in every C target.
#include "CAccess.h"
